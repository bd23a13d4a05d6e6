// The operations of the frontend. Every object includes its `id`, which normalised caches need.

export const HEADER = `query Header {
  account { id balance { id available version } }
}`

export const BALANCE_SUBSCRIPTION = `subscription BalanceUpdates($sinceVersion: Long) {
  balance(sinceVersion: $sinceVersion) { id available version }
}`

export const COST_SUBSCRIPTION = `subscription CostUpdates($taskId: ID!) {
  taskCost(taskId: $taskId) { id total }
}`

export const BUY = `mutation Buy($input: BeginTopUpInput!) {
  beginTopUp(input: $input) {
    __typename
    ... on BeginTopUpSuccess { topUp { id status credits paymentUrl } balance { id available version } }
    ... on InvalidInputError { problems { path } }
    ...ErrorMessage
  }
}

fragment ErrorMessage on UserError {
  message
}`

export const SET_THRESHOLD = `mutation SetThreshold($input: SetLowBalanceThresholdInput!) {
  setLowBalanceThreshold(input: $input) {
    __typename
    ... on SetLowBalanceThresholdSuccess { account { id lowBalanceThreshold } balance { id available version } }
    ...ErrorMessage
  }
}

fragment ErrorMessage on UserError {
  message
}`

export const PRICE = `query Price($block: String!) {
  blockPrice(block: $block) {
    __typename
    ... on BlockPrice { credits unit }
    ... on PriceNotFoundError { block }
    ...ErrorMessage
  }
}

fragment ErrorMessage on UserError {
  message
}`
