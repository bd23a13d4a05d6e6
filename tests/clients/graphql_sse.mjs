// graphql-sse, in distinct connections mode: one request for each operation.
import assert from 'node:assert/strict'
import test from 'node:test'
import { createClient } from 'graphql-sse'
import { answer, balance, followed, testAnswersAndChanges } from './following.mjs'
import { Inbox } from './inbox.mjs'
import { FOLLOW_BALANCE } from './operations.mjs'
import { HTTP, grant, someone, tokenFor } from './platform.mjs'
import { resuming } from './resuming.mjs'

/** As a page makes it; `token` is asked for at every request, so that it is a fresh one each time. */
function connected(t, token, more = {}) {
  const client = createClient({
    url: HTTP,
    headers: async () => ({ authorization: `Bearer ${await token()}` }),
    ...more,
  })
  t.after(() => client.dispose())
  return client
}

testAnswersAndChanges(connected)

test('what is refused is told once, and not asked again', async t => {
  const user = someone()
  let requests = 0
  const client = connected(t, () => tokenFor(user), { on: { connecting: () => { requests += 1 } } })
  const refused = [
    ['FORBIDDEN', 'subscription { balance(ownerId: "somebody-else") { available } }'],
    ['GRAPHQL_VALIDATION_FAILED', 'subscription { nothing }'],
    ['GRAPHQL_PARSE_FAILED', 'subscription {'],
    ['BAD_USER_INPUT', FOLLOW_BALANCE, { sinceVersion: 'many' }],
  ]
  for (const [code, query, variables] of refused) {
    const { errors } = await answer(client, query, variables)
    assert.deepEqual(errors.map(one => one.extensions.code), [code])
  }
  assert.equal(requests, refused.length)
})

test('at the end of its token it comes back with a fresh one, told nothing twice and missing nothing', async t => {
  const user = someone()
  const lifetimes = [3, 3, 600]
  const absences = [() => grant(user, 5), () => undefined] // what happens while it is away
  const back = new Inbox()
  const client = resuming(
    connected(t, () => tokenFor(user, lifetimes.shift()), {
      retry: async () => absences.shift()(),
      on: { connected: again => back.put(again) },
    }),
  )
  const header = followed(client, FOLLOW_BALANCE)
  assert.deepEqual(await balance(header), { available: 0, version: 0 })
  assert.equal(await back.next(), false)

  await grant(user, 70)
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
  assert.deepEqual(await balance(header), { available: 75, version: 2 }) // what changed meanwhile, at once
  assert.equal(await back.next(), true)

  assert.equal(await back.next(), true)
  await header.silent() // nothing changed meanwhile: nothing is told again
  await grant(user, 1)
  assert.deepEqual(await balance(header), { available: 76, version: 3 })
  assert.deepEqual(lifetimes, [])
})

test('a token that is not accepted is retried as well, with the next one', async t => {
  const user = someone()
  const tokens = ['nonsense', await tokenFor(user)]
  const client = connected(t, () => tokens.shift(), { retry: async () => undefined })
  assert.deepEqual(await balance(followed(client, FOLLOW_BALANCE)), { available: 0, version: 0 })
})

test('what comes with Last-Event-ID goes on after it: a bare request, for graphql-sse sends none', async t => {
  const user = someone()
  await grant(user, 70)
  const [first, text] = await events(user, 1)
  assert.equal(first, 'id: 1')
  assert.equal(JSON.parse(text.slice('data: '.length)).data.balance.available, 70)

  await grant(user, 5)
  const [second, more] = await events(user, 1, { 'last-event-id': '1' })
  assert.equal(second, 'id: 2')
  assert.equal(JSON.parse(more.slice('data: '.length)).data.balance.available, 75)

  const coming = events(user, 1, { 'last-event-id': '2' }) // nothing newer: nothing is told again
  await grant(user, 1)
  assert.equal((await coming)[0], 'id: 3')
})

/** The lines of the first item of the balance's stream, but for its name. */
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
    body: JSON.stringify({ query: FOLLOW_BALANCE }),
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
