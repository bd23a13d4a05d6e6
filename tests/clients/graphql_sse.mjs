// graphql-sse, in distinct connections mode: one request for each operation.
import assert from 'node:assert/strict'
import test from 'node:test'
import { createClient } from 'graphql-sse'
import { answer, balance, subscribe, testResponsesAndSubscriptions } from './shared_tests.mjs'
import { ReceivedItems } from './received_items.mjs'
import { BALANCE_SUBSCRIPTION } from './operations.mjs'
import { HTTP, grant, newUser, tokenFor } from './platform.mjs'
import { resuming } from './resuming.mjs'

/** A client as a page creates it. `token` is called for every request, so that each has a fresh token. */
function createClientFor(t, token, more = {}) {
  const client = createClient({
    url: HTTP,
    headers: async () => ({ authorization: `Bearer ${await token()}` }),
    ...more,
  })
  t.after(() => client.dispose())
  return client
}

testResponsesAndSubscriptions(createClientFor)

test('an error ends the operation without a retry', async t => {
  const user = newUser()
  let requests = 0
  const client = createClientFor(t, () => tokenFor(user), { on: { connecting: () => { requests += 1 } } })
  const failed = [
    ['FORBIDDEN', 'subscription { balance(ownerId: "somebody-else") { available } }'],
    ['GRAPHQL_VALIDATION_FAILED', 'subscription { nothing }'],
    ['GRAPHQL_PARSE_FAILED', 'subscription {'],
    ['BAD_USER_INPUT', BALANCE_SUBSCRIPTION, { sinceVersion: 'many' }],
  ]
  for (const [code, query, variables] of failed) {
    const { errors } = await answer(client, query, variables)
    assert.deepEqual(errors.map(one => one.extensions.code), [code])
  }
  assert.equal(requests, failed.length)
})

test('when its token expires, it reconnects with a fresh one without repeated or missing items', async t => {
  const user = newUser()
  const lifetimes = [3, 3, 600]
  const absences = [() => grant(user, 5), () => undefined] // what happens while it is disconnected
  const back = new ReceivedItems()
  const client = resuming(
    createClientFor(t, () => tokenFor(user, lifetimes.shift()), {
      retry: async () => absences.shift()(),
      on: { connected: again => back.put(again) },
    }),
  )
  const header = subscribe(client, BALANCE_SUBSCRIPTION)
  assert.deepEqual(await balance(header), { available: 0, version: 0 })
  assert.equal(await back.next(), false)

  await grant(user, 70)
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
  assert.deepEqual(await balance(header), { available: 75, version: 2 }) // the change during the disconnection, at once
  assert.equal(await back.next(), true)

  assert.equal(await back.next(), true)
  await header.expectNothing() // nothing has changed: nothing is sent again
  await grant(user, 1)
  assert.deepEqual(await balance(header), { available: 76, version: 3 })
  assert.deepEqual(lifetimes, [])
})

test('an invalid token is retried with the next one', async t => {
  const user = newUser()
  const tokens = ['invalid', await tokenFor(user)]
  const client = createClientFor(t, () => tokens.shift(), { retry: async () => undefined })
  assert.deepEqual(await balance(subscribe(client, BALANCE_SUBSCRIPTION)), { available: 0, version: 0 })
})

test('a request with Last-Event-ID resumes after it (a bare request: graphql-sse sends no Last-Event-ID)', async t => {
  const user = newUser()
  await grant(user, 70)
  const [first, text] = await events(user, 1)
  assert.equal(first, 'id: 1')
  assert.equal(JSON.parse(text.slice('data: '.length)).data.balance.available, 70)

  await grant(user, 5)
  const [second, more] = await events(user, 1, { 'last-event-id': '1' })
  assert.equal(second, 'id: 2')
  assert.equal(JSON.parse(more.slice('data: '.length)).data.balance.available, 75)

  const coming = events(user, 1, { 'last-event-id': '2' }) // nothing newer: nothing is sent again
  await grant(user, 1)
  assert.equal((await coming)[0], 'id: 3')
})

/** The lines of the first item of the balance stream, without the event name. */
async function events(user, count, more = {}) {
  const leaving = new AbortController()
  const reply = await fetch(HTTP, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'text/event-stream',
      authorization: `Bearer ${await tokenFor(user)}`,
      ...more,
    },
    body: JSON.stringify({ query: BALANCE_SUBSCRIPTION }),
    signal: leaving.signal,
  })
  assert.equal(reply.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  let text = ''
  for await (const chunk of reply.body.pipeThrough(new TextDecoderStream())) {
    text += chunk
    if (text.includes('\n\n')) break
  }
  leaving.abort()
  const [name, ...lines] = text.split('\n\n')[0].split('\n')
  assert.equal(name, 'event: next')
  return lines
}
