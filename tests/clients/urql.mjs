// urql's core with its normalised cache: fetch for queries and mutations, graphql-ws or SSE for subscriptions.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test, { describe } from 'node:test'
import { Client, fetchExchange, subscriptionExchange } from '@urql/core'
import { cacheExchange } from '@urql/exchange-graphcache'
import { persistedExchange } from '@urql/exchange-persisted'
import { introspectionFromSchema } from 'graphql'
import { createClient as createSseClient } from 'graphql-sse'
import { createClient as createWsClient } from 'graphql-ws'
import WebSocket from 'ws'
import { ReceivedItems } from './received_items.mjs'
import { BUY, BALANCE_SUBSCRIPTION, HEADER, PRICE, SET_THRESHOLD } from './operations.mjs'
import { CHARGE, HTTP, WS, charge, grant, schema, newUser, startTask, tokenFor } from './platform.mjs'
import { resuming } from './resuming.mjs'

const introspection = introspectionFromSchema(schema, { descriptions: false })
const sha256 = async text => createHash('sha256').update(text).digest('hex')

/** A client as a page creates it. `token` is called for every request. `sent`: method and body of the requests. */
function createClientFor(token, { url = HTTP, byHash = false, socket, sent = [], ...more } = {}) {
  return new Client({
    url,
    preferGetMethod: false, // its default is GET, which is served only in development
    fetch: async (address, options) => {
      sent.push({ method: options.method, ...(options.body && JSON.parse(options.body)) })
      return fetch(address, { ...options, headers: { ...options.headers, authorization: `Bearer ${await token()}` } })
    },
    exchanges: [
      cacheExchange({ schema: introspection, keys: { BlockPrice: () => null, PriceNotFoundError: () => null } }),
      ...(byHash
        ? [persistedExchange({ generateHash: sha256, enableForMutation: true, preferGetForPersistedQueries: false })]
        : []),
      fetchExchange,
      ...(socket ? [subscriptionsOver(resuming(socket))] : []),
    ],
    ...more,
  })
}

/** Subscriptions over a client of graphql-ws or graphql-sse. */
const subscriptionsOver = client =>
  subscriptionExchange({
    forwardSubscription: request => ({
      subscribe: sink => ({ unsubscribe: client.subscribe(request, sink) }),
    }),
  })

function socketOf(t, token, more = {}) {
  const socket = createWsClient({
    url: WS,
    webSocketImpl: WebSocket,
    connectionParams: async () => ({ authorization: `Bearer ${await token()}` }),
    ...more,
  })
  t.after(() => socket.dispose())
  return socket
}

function streamOf(t, token, more = {}) {
  const streams = createSseClient({
    url: HTTP,
    headers: async () => ({ authorization: `Bearer ${await token()}` }),
    ...more,
  })
  t.after(() => streams.dispose())
  return streams
}

function subscribe(t, source) {
  const items = new ReceivedItems()
  const { unsubscribe } = source.subscribe(items.put)
  t.after(unsubscribe)
  return items
}

const buy = (client, credits, idempotencyKey) => client.mutation(BUY, { input: { credits, idempotencyKey } })

const balance = async items => {
  const { data: { balance: { available, version } } } = await items.next()
  return { available, version }
}

test('a query, a mutation and its error are answered', async () => {
  const user = newUser()
  await grant(user, 70)
  const client = createClientFor(() => tokenFor(user))

  const { data: { account } } = await client.query(HEADER, {})
  assert.deepEqual([account.balance.available, account.balance.version], [70, 1])

  const bought = await buy(client, 500, 'first')
  assert.equal(bought.data.beginTopUp.topUp.status, 'PENDING')

  const { data: { beginTopUp: failure } } = await buy(client, 501, 'second')
  assert.equal(failure.__typename, 'InvalidInputError')
  assert.deepEqual(failure.problems, [{ path: 'credits' }])
  assert.ok(failure.message)
})

test('in development queries may be sent by GET, its default', async () => {
  const user = newUser()
  const sent = []
  const client = createClientFor(() => tokenFor(user), { sent, preferGetMethod: undefined })
  const { data } = await client.query(HEADER, {})
  assert.equal(data.account.balance.available, 0)
  assert.deepEqual(sent, [{ method: 'GET' }])
})

test('an error is read from the cache by the fragment on its interface', async () => {
  const user = newUser()
  const sent = []
  const client = createClientFor(() => tokenFor(user), { sent })
  const asked = [PRICE, { block: 'NoSuchBlock' }]

  const { data: { blockPrice: came } } = await client.query(...asked)
  const { data: { blockPrice: kept } } = await client.query(...asked, { requestPolicy: 'cache-only' })
  assert.deepEqual([came.__typename, came.block, kept], ['PriceNotFoundError', 'NoSuchBlock', came])
  assert.ok(kept.message)
  assert.equal(sent.length, 1)
})

const ways = { 'graphql-ws': socketOf, 'graphql-sse': streamOf }

for (const [way, open] of Object.entries(ways)) {
  test(`subscription items over ${way} and mutation results update every query of the same object`, async t => {
    const user = newUser()
    const sent = []
    const client = createClientFor(() => tokenFor(user), { sent, socket: open(t, () => tokenFor(user)) })
    const page = new ReceivedItems()
    t.after(client.query(HEADER, {}).subscribe(({ data }) => page.put(data.account.balance.available)).unsubscribe)
    assert.equal(await page.next(), 0)
    const header = subscribe(t, client.subscription(BALANCE_SUBSCRIPTION, {}))
    assert.deepEqual(await balance(header), { available: 0, version: 0 })

    await grant(user, 70)
    assert.deepEqual(await balance(header), { available: 70, version: 1 })
    while (await page.next() !== 70);
    await charge(await startTask(user))
    while (await page.next() !== 70 - CHARGE);
    assert.equal(sent.length, 1)

    const { data } = await client.mutation(SET_THRESHOLD, { input: { credits: 40, idempotencyKey: 'threshold' } })
    assert.equal(data.setLowBalanceThreshold.account.lowBalanceThreshold, 40)
    const known = await client.query('{ account { id lowBalanceThreshold } }', {}, { requestPolicy: 'cache-only' })
    assert.equal(known.data.account.lowBalanceThreshold, 40)
    assert.equal(sent.length, 2)
  })
}

describe('when the token expires', { concurrency: true }, () => {
  for (const [way, open] of Object.entries(ways)) {
    test(`a subscription over ${way} reconnects without repeated or missing items`, async t => {
      const user = newUser()
      const lifetimes = [3, 600]
      const away = async () => grant(user, 5)
      const socket = open(t, () => tokenFor(user, lifetimes.shift()), { retryWait: away, retry: away })
      const client = createClientFor(() => tokenFor(user), { socket })
      const header = subscribe(t, client.subscription(BALANCE_SUBSCRIPTION, {}))
      assert.deepEqual(await balance(header), { available: 0, version: 0 })

      await grant(user, 70)
      assert.deepEqual(await balance(header), { available: 70, version: 1 })
      assert.deepEqual(await balance(header), { available: 75, version: 2 })
      await grant(user, 1)
      assert.deepEqual(await balance(header), { available: 76, version: 3 })
      assert.deepEqual(lifetimes, [])
    })
  }

  test('its own SSE stream sends the current state and every change, and leaves reconnecting to the page', async t => {
    const user = newUser()
    const lifetimes = [3, 600]
    const client = createClientFor(() => tokenFor(user, lifetimes.shift()), { fetchSubscriptions: true })
    const header = subscribe(t, client.subscription(BALANCE_SUBSCRIPTION, {}))
    assert.deepEqual(await balance(header), { available: 0, version: 0 })
    await grant(user, 70)
    assert.deepEqual(await balance(header), { available: 70, version: 1 })

    let end
    do end = await header.next()
    while (end.hasNext)
    await grant(user, 5)
    const again = subscribe(t, client.subscription(BALANCE_SUBSCRIPTION, { sinceVersion: 1 }))
    assert.deepEqual(await balance(again), { available: 75, version: 2 })
  })
})

test('its own SSE stream reports why a subscription is refused', async t => {
  const user = newUser()
  const client = createClientFor(() => tokenFor(user), { fetchSubscriptions: true })
  const failed = subscribe(t, client.subscription('subscription { balance(ownerId: "somebody-else") { id } }', {}))
  assert.deepEqual((await failed.next()).error.graphQLErrors.map(one => one.extensions.code), ['FORBIDDEN'])
})

test('a request with an invalid token is an error, and the next request is served', async () => {
  const user = newUser()
  const tokens = ['invalid', await tokenFor(user)]
  const client = createClientFor(() => tokens.shift())
  const { error } = await client.query(HEADER, {})
  assert.deepEqual(error.graphQLErrors.map(one => one.extensions.code), ['UNAUTHENTICATED'])
  assert.equal(error.response.status, 401)
  const { data } = await client.query(HEADER, {}, { requestPolicy: 'network-only' })
  assert.equal(data.account.balance.available, 0)
})

test('persisted documents are sent by hash, and others with their text only where arbitrary documents are allowed', async () => {
  const user = newUser()
  await grant(user, 70)
  const sent = []
  const shown = () => sent.map(({ query, extensions }) => [query !== undefined, extensions.persistedQuery !== undefined])
  const strict = `${process.env.STRICT_SERVER_URL}/graphql`
  const unlisted = '{ account { id ownerId } }'

  const closed = createClientFor(() => tokenFor(user), { url: strict, byHash: true, sent })
  assert.equal((await closed.query(HEADER, {})).data.account.balance.available, 70)
  assert.deepEqual(shown(), [[false, true]])
  const { error } = await closed.query(unlisted, {})
  assert.deepEqual(error.graphQLErrors.map(one => one.extensions.code), ['DOCUMENT_NOT_ALLOWED'])

  sent.length = 0
  const open = createClientFor(() => tokenFor(user), { byHash: true, sent })
  assert.equal((await open.query(unlisted, {})).data.account.ownerId, user)
  assert.deepEqual(shown(), [[false, true], [true, true]])
})
