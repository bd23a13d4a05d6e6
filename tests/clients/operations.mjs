// What the frontend asks for. Every object is asked for its id, by which normalised caches know it again.

export const HEADER = `query Header {
  account { id balance { id available version } }
}`

export const FOLLOW_BALANCE = `subscription FollowBalance($sinceVersion: Long) {
  balance(sinceVersion: $sinceVersion) { id available version }
}`

export const FOLLOW_COST = `subscription FollowCost($taskId: ID!) {
  taskCost(taskId: $taskId) { id total }
}`

export const BUY = `mutation Buy($input: BeginTopUpInput!) {
  beginTopUp(input: $input) {
    __typename
    ... on BeginTopUpSuccess { topUp { id status credits paymentUrl } balance { id available version } }
    ... on InvalidInputError { problems { path } }
    ...Refusal
  }
}

fragment Refusal on UserError {
  message
}`

export const SET_THRESHOLD = `mutation SetThreshold($input: SetLowBalanceThresholdInput!) {
  setLowBalanceThreshold(input: $input) {
    __typename
    ... on SetLowBalanceThresholdSuccess { account { id lowBalanceThreshold } balance { id available version } }
    ...Refusal
  }
}

fragment Refusal on UserError {
  message
}`

export const PRICE = `query Price($block: String!) {
  blockPrice(block: $block) {
    __typename
    ... on BlockPrice { credits unit }
    ... on PriceNotFoundError { block }
    ...Refusal
  }
}

fragment Refusal on UserError {
  message
}`
