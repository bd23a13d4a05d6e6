// Apollo Client 4: HTTP for queries and mutations, graphql-ws for subscriptions, a cache normalised by id.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test from 'node:test'
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client'
import { CombinedGraphQLErrors } from '@apollo/client/errors'
import { SetContextLink } from '@apollo/client/link/context'
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries'
import { GraphQLWsLink } from '@apollo/client/link/subscriptions'
import { OperationTypeNode } from 'graphql'
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { ReceivedItems } from './received_items.mjs'
import { BUY, BALANCE_SUBSCRIPTION, HEADER, PRICE, SET_THRESHOLD } from './operations.mjs'
import { CHARGE, HTTP, WS, charge, grant, schema, newUser, startTask, tokenFor } from './platform.mjs'
import { resuming } from './resuming.mjs'

/** The possible types of each union and interface, from schema.graphql. The cache needs them to match fragments. */
const possibleTypes = Object.fromEntries(
  Object.values(schema.getTypeMap())
    .filter(type => 'resolveType' in type)
    .map(type => [type.name, schema.getPossibleTypes(type).map(({ name }) => name)]),
)
const sha256 = text => createHash('sha256').update(text).digest('hex')

/** A client as a page creates it. `token` is called for every request and connection. `sent`: the request bodies. */
function createClientFor(t, token, { http = HTTP, ws = WS, byHash = false, sent = [], ...more } = {}) {
  const socket = createClient({
    url: ws,
    webSocketImpl: WebSocket,
    connectionParams: async () => ({ authorization: `Bearer ${await token()}` }),
    ...more,
  })
  const signed = new SetContextLink(async () => ({ headers: { authorization: `Bearer ${await token()}` } }))
  const recorded = (url, options) => {
    sent.push(JSON.parse(options.body))
    return fetch(url, options)
  }
  const requests = ApolloLink.from([
    signed,
    ...(byHash ? [new PersistedQueryLink({ sha256 })] : []),
    new HttpLink({ uri: http, fetch: recorded }),
  ])
  const client = new ApolloClient({
    link: ApolloLink.split(
      ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION,
      new GraphQLWsLink(resuming(socket)),
      requests,
    ),
    cache: new InMemoryCache({ possibleTypes }),
  })
  t.after(() => {
    client.stop()
    return socket.dispose()
  })
  return { client, socket }
}

function subscribe(observable) {
  const items = new ReceivedItems()
  observable.subscribe(items.sink)
  return items
}

const buy = (client, credits, idempotencyKey) =>
  client.mutate({ mutation: gql(BUY), variables: { input: { credits, idempotencyKey } } })

const balance = async items => {
  const { data: { balance: { available, version } } } = await items.next()
  return { available, version }
}

test('a query, a mutation and its error are answered', async t => {
  const user = newUser()
  await grant(user, 70)
  const { client } = createClientFor(t, () => tokenFor(user))

  const { data: { account } } = await client.query({ query: gql(HEADER) })
  assert.deepEqual([account.balance.available, account.balance.version], [70, 1])

  const bought = await buy(client, 500, 'first')
  assert.equal(bought.data.beginTopUp.topUp.status, 'PENDING')

  const { data: { beginTopUp: failure } } = await buy(client, 501, 'second')
  assert.equal(failure.__typename, 'InvalidInputError')
  assert.deepEqual(failure.problems, [{ __typename: 'Problem', path: 'credits' }])
  assert.match(failure.message, /multiple|100/)
})

test('an error is read from the cache by the fragment on its interface', async t => {
  const user = newUser()
  const sent = []
  const { client } = createClientFor(t, () => tokenFor(user), { sent })
  const asked = { query: gql(PRICE), variables: { block: 'NoSuchBlock' } }

  const { data: { blockPrice: came } } = await client.query(asked)
  const { data: { blockPrice: kept } } = await client.query({ ...asked, fetchPolicy: 'cache-only' })
  assert.deepEqual([came.__typename, came.block, kept], ['PriceNotFoundError', 'NoSuchBlock', came])
  assert.ok(kept.message)
  assert.equal(sent.length, 1)
})

test('subscription items and mutation results update every query of the same object without a request', async t => {
  const user = newUser()
  const sent = []
  const { client } = createClientFor(t, () => tokenFor(user), { sent })
  const page = new ReceivedItems()
  client.watchQuery({ query: gql(HEADER) }).subscribe(({ data, dataState }) => {
    if (dataState === 'complete') page.put(data.account.balance.available)
  })
  assert.equal(await page.next(), 0)
  const header = subscribe(client.subscribe({ query: gql(BALANCE_SUBSCRIPTION) }))
  assert.deepEqual(await balance(header), { available: 0, version: 0 })

  await grant(user, 70)
  assert.equal(await page.next(), 70)
  await charge(await startTask(user))
  assert.equal(await page.next(), 70 - CHARGE)
  assert.equal(sent.length, 1)

  const { data } = await client.mutate({
    mutation: gql(SET_THRESHOLD), variables: { input: { credits: 40, idempotencyKey: 'threshold' } },
  })
  const kept = client.cache.extract()
  const { account, balance: now } = data.setLowBalanceThreshold
  assert.equal(kept[`Account:${account.id}`].lowBalanceThreshold, 40)
  assert.deepEqual(kept[`Account:${account.id}`].balance, { __ref: `Balance:${now.id}` })
})

test('when its token expires, a subscription reconnects with a fresh one without repeated or missing items', async t => {
  const user = newUser()
  const lifetimes = [3, 600]
  const closes = new ReceivedItems()
  const { client, socket } = createClientFor(t, () => tokenFor(user, lifetimes.shift()), {
    retryWait: async () => grant(user, 5), // what happens while it is disconnected
  })
  socket.on('closed', ({ code }) => closes.put(code))
  const header = subscribe(client.subscribe({ query: gql(BALANCE_SUBSCRIPTION) }))
  assert.deepEqual(await balance(header), { available: 0, version: 0 })

  await grant(user, 70)
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
  assert.equal(await closes.next(), 4403)
  assert.deepEqual(await balance(header), { available: 75, version: 2 })
  await grant(user, 1)
  assert.deepEqual(await balance(header), { available: 76, version: 3 })
  assert.deepEqual(lifetimes, [])
})

test('a request with an invalid token is an error, and the next request is served', async t => {
  const user = newUser()
  const tokens = ['invalid', await tokenFor(user)]
  const { client } = createClientFor(t, () => tokens.shift())
  await assert.rejects(client.query({ query: gql(HEADER) }), error => {
    assert.ok(CombinedGraphQLErrors.is(error))
    assert.deepEqual(error.errors.map(one => one.extensions.code), ['UNAUTHENTICATED'])
    return true
  })
  const { data } = await client.query({ query: gql(HEADER) })
  assert.equal(data.account.balance.available, 0)
})

const strict = {
  http: `${process.env.STRICT_SERVER_URL}/graphql`,
  ws: `${process.env.STRICT_SERVER_URL.replace(/^http/, 'ws')}/graphql`,
  byHash: true,
}

test('where only persisted documents are allowed, they are sent by hash, and subscriptions by their exact text', async t => {
  const user = newUser()
  await grant(user, 70)
  const sent = []
  const { client } = createClientFor(t, () => tokenFor(user), { ...strict, sent })

  const { data } = await client.query({ query: gql(HEADER) })
  assert.equal(data.account.balance.available, 70)
  const bought = await buy(client, 500, 'first')
  assert.equal(bought.data.beginTopUp.topUp.status, 'PENDING')
  assert.deepEqual(await balance(subscribe(client.subscribe({ query: gql(BALANCE_SUBSCRIPTION) }))), { available: 70, version: 1 })

  assert.deepEqual(sent.map(({ query, extensions }) => [query, typeof extensions.persistedQuery.sha256Hash]), [
    [undefined, 'string'], [undefined, 'string'],
  ])
})

test('an unknown hash is sent again with its text, which is served only where arbitrary documents are allowed', async t => {
  const user = newUser()
  const asked = { query: gql('query Unlisted { account { id ownerId } }') }
  const sent = []
  const shown = () => sent.map(({ query, extensions }) => [query !== undefined, extensions.persistedQuery !== undefined])

  const open = createClientFor(t, () => tokenFor(user), { byHash: true, sent })
  const { data } = await open.client.query(asked)
  assert.equal(data.account.ownerId, user)
  assert.deepEqual(shown(), [[false, true], [true, true]])

  sent.length = 0
  const closed = createClientFor(t, () => tokenFor(user), { ...strict, sent })
  await assert.rejects(closed.client.query(asked), error => {
    assert.deepEqual(error.errors.map(one => one.extensions.code), ['DOCUMENT_NOT_ALLOWED'])
    return true
  })
  assert.deepEqual(shown(), [[false, true], [true, true]])
})
