// urql's core with its normalised cache: fetch for queries and mutations, graphql-ws or an event stream for subscriptions.
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
import { Inbox } from './inbox.mjs'
import { BUY, FOLLOW_BALANCE, HEADER, PRICE, SET_THRESHOLD } from './operations.mjs'
import { CHARGE, HTTP, WS, charge, grant, schema, someone, startTask, tokenFor } from './platform.mjs'
import { resuming } from './resuming.mjs'

const introspection = introspectionFromSchema(schema, { descriptions: false })
const sha256 = async text => createHash('sha256').update(text).digest('hex')

/** As a page makes it; `token` is asked for at every request. `sent`: method and body of its requests. */
function connected(token, { url = HTTP, byHash = false, socket, sent = [], ...more } = {}) {
  return new Client({
    url,
    preferGetMethod: false, // its default is GET, which is served in development only
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
      ...(socket ? [following(resuming(socket))] : []),
    ],
    ...more,
  })
}

/** Subscriptions by a client of graphql-ws or graphql-sse. */
const following = followers =>
  subscriptionExchange({
    forwardSubscription: request => ({
      subscribe: sink => ({ unsubscribe: followers.subscribe(request, sink) }),
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

function followed(t, source) {
  const inbox = new Inbox()
  const { unsubscribe } = source.subscribe(inbox.put)
  t.after(unsubscribe)
  return inbox
}

const buy = (client, credits, idempotencyKey) => client.mutation(BUY, { input: { credits, idempotencyKey } })

const balance = async inbox => {
  const { data: { balance: { available, version } } } = await inbox.next()
  return { available, version }
}

test('a query, a mutation and its refusal are answered', async () => {
  const user = someone()
  await grant(user, 70)
  const client = connected(() => tokenFor(user))

  const { data: { account } } = await client.query(HEADER, {})
  assert.deepEqual([account.balance.available, account.balance.version], [70, 1])

  const bought = await buy(client, 500, 'first')
  assert.equal(bought.data.beginTopUp.topUp.status, 'PENDING')

  const { data: { beginTopUp: refusal } } = await buy(client, 501, 'second')
  assert.equal(refusal.__typename, 'InvalidInputError')
  assert.deepEqual(refusal.problems, [{ path: 'credits' }])
  assert.ok(refusal.message)
})

test('in development queries may go by GET, as is its default', async () => {
  const user = someone()
  const sent = []
  const client = connected(() => tokenFor(user), { sent, preferGetMethod: undefined })
  const { data } = await client.query(HEADER, {})
  assert.equal(data.account.balance.available, 0)
  assert.deepEqual(sent, [{ method: 'GET' }])
})

test('a refusal is read from the cache as it came, by the fragment on its interface', async () => {
  const user = someone()
  const sent = []
  const client = connected(() => tokenFor(user), { sent })
  const asked = [PRICE, { block: 'NoSuchBlock' }]

  const { data: { blockPrice: came } } = await client.query(...asked)
  const { data: { blockPrice: kept } } = await client.query(...asked, { requestPolicy: 'cache-only' })
  assert.deepEqual([came.__typename, came.block, kept], ['PriceNotFoundError', 'NoSuchBlock', came])
  assert.ok(kept.message)
  assert.equal(sent.length, 1)
})

const ways = { 'graphql-ws': socketOf, 'graphql-sse': streamOf }

for (const [way, open] of Object.entries(ways)) {
  test(`what a subscription by ${way} tells and a mutation answers is seen by every query of the same object`, async t => {
    const user = someone()
    const sent = []
    const client = connected(() => tokenFor(user), { sent, socket: open(t, () => tokenFor(user)) })
    const page = new Inbox()
    t.after(client.query(HEADER, {}).subscribe(({ data }) => page.put(data.account.balance.available)).unsubscribe)
    assert.equal(await page.next(), 0)
    const header = followed(t, client.subscription(FOLLOW_BALANCE, {}))
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

describe('at the end of the token', { concurrency: true }, () => {
  for (const [way, open] of Object.entries(ways)) {
    test(`a subscription by ${way} comes back, told nothing twice and missing nothing`, async t => {
      const user = someone()
      const lifetimes = [3, 600]
      const away = async () => grant(user, 5)
      const socket = open(t, () => tokenFor(user, lifetimes.shift()), { retryWait: away, retry: away })
      const client = connected(() => tokenFor(user), { socket })
      const header = followed(t, client.subscription(FOLLOW_BALANCE, {}))
      assert.deepEqual(await balance(header), { available: 0, version: 0 })

      await grant(user, 70)
      assert.deepEqual(await balance(header), { available: 70, version: 1 })
      assert.deepEqual(await balance(header), { available: 75, version: 2 })
      await grant(user, 1)
      assert.deepEqual(await balance(header), { available: 76, version: 3 })
      assert.deepEqual(lifetimes, [])
    })
  }

  test('its own event stream tells a snapshot, then every change, and leaves coming back to the page', async t => {
    const user = someone()
    const lifetimes = [3, 600]
    const client = connected(() => tokenFor(user, lifetimes.shift()), { fetchSubscriptions: true })
    const header = followed(t, client.subscription(FOLLOW_BALANCE, {}))
    assert.deepEqual(await balance(header), { available: 0, version: 0 })
    await grant(user, 70)
    assert.deepEqual(await balance(header), { available: 70, version: 1 })

    let end
    do end = await header.next()
    while (end.hasNext)
    await grant(user, 5)
    const again = followed(t, client.subscription(FOLLOW_BALANCE, { sinceVersion: 1 }))
    assert.deepEqual(await balance(again), { available: 75, version: 2 })
  })
})

test('its own event stream tells why a subscription is refused', async t => {
  const user = someone()
  const client = connected(() => tokenFor(user), { fetchSubscriptions: true })
  const refused = followed(t, client.subscription('subscription { balance(ownerId: "somebody-else") { id } }', {}))
  assert.deepEqual((await refused.next()).error.graphQLErrors.map(one => one.extensions.code), ['FORBIDDEN'])
})

test('a request with a token that is not accepted is an error that says so, and the next one is served', async () => {
  const user = someone()
  const tokens = ['nonsense', await tokenFor(user)]
  const client = connected(() => tokens.shift())
  const { error } = await client.query(HEADER, {})
  assert.deepEqual(error.graphQLErrors.map(one => one.extensions.code), ['UNAUTHENTICATED'])
  assert.equal(error.response.status, 401)
  const { data } = await client.query(HEADER, {}, { requestPolicy: 'network-only' })
  assert.equal(data.account.balance.available, 0)
})

test('known documents are served by their hash alone, and others with their text only where those are', async () => {
  const user = someone()
  await grant(user, 70)
  const sent = []
  const shown = () => sent.map(({ query, extensions }) => [query !== undefined, extensions.persistedQuery !== undefined])
  const strict = `${process.env.STRICT_SERVER_URL}/graphql`
  const unheard = '{ account { id ownerId } }'

  const closed = connected(() => tokenFor(user), { url: strict, byHash: true, sent })
  assert.equal((await closed.query(HEADER, {})).data.account.balance.available, 70)
  assert.deepEqual(shown(), [[false, true]])
  const { error } = await closed.query(unheard, {})
  assert.deepEqual(error.graphQLErrors.map(one => one.extensions.code), ['DOCUMENT_NOT_ALLOWED'])

  sent.length = 0
  const open = connected(() => tokenFor(user), { byHash: true, sent })
  assert.equal((await open.query(unheard, {})).data.account.ownerId, user)
  assert.deepEqual(shown(), [[false, true], [true, true]])
})
