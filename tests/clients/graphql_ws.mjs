// graphql-ws, the client of the graphql-transport-ws protocol.
import assert from 'node:assert/strict'
import test from 'node:test'
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { balance, followed, testAnswersAndChanges } from './following.mjs'
import { Inbox } from './inbox.mjs'
import { FOLLOW_BALANCE, FOLLOW_COST } from './operations.mjs'
import { CHARGE, WS, charge, finishTask, grant, someone, startTask, tokenFor } from './platform.mjs'
import { resuming } from './resuming.mjs'

/** As a page makes it; `token` is asked for at every connection, so that it is a fresh one each time. */
function connected(t, token, more = {}) {
  const client = createClient({
    url: WS,
    webSocketImpl: WebSocket, // pages and Node from 22 on have one of their own
    connectionParams: async () => ({ authorization: `Bearer ${await token()}` }),
    ...more,
  })
  t.after(() => client.dispose())
  return client
}

testAnswersAndChanges(connected)

test('two operations share a connection, and one ends without the other', async t => {
  const user = someone()
  await grant(user, 70)
  const task = await startTask(user)
  const client = connected(t, () => tokenFor(user))
  let connections = 0
  client.on('connected', () => { connections += 1 })
  const header = followed(client, FOLLOW_BALANCE)
  const second = followed(client, FOLLOW_BALANCE)
  const cost = followed(client, FOLLOW_COST, { taskId: task })
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
  assert.deepEqual(await balance(second), { available: 70, version: 1 })
  assert.equal((await cost.next()).data.taskCost.total, 0)

  second.leave()
  assert.equal(await second.next(), 'complete')
  await charge(task)
  assert.deepEqual(await balance(header), { available: 70 - CHARGE, version: 2 })
  assert.equal((await cost.next()).data.taskCost.total, CHARGE)
  await second.silent(50)

  await finishTask(task)
  assert.equal((await cost.next()).data.taskCost.total, CHARGE)
  assert.equal(await cost.next(), 'complete')
  await grant(user, 5)
  assert.deepEqual(await balance(header), { available: 75 - CHARGE, version: 3 })
  assert.equal(connections, 1)
})

test('an operation that is refused ends alone', async t => {
  const user = someone()
  const client = connected(t, () => tokenFor(user))
  const header = followed(client, FOLLOW_BALANCE)
  await header.next()

  const { error } = await followed(client, '{ nothing }').next()
  assert.deepEqual(error.map(one => one.extensions.code), ['GRAPHQL_VALIDATION_FAILED'])
  await grant(user, 70)
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
})

test('a ping is answered', async t => {
  const pongs = new Inbox()
  const client = connected(t, () => tokenFor(someone()), { keepAlive: 20 })
  client.on('pong', received => pongs.put(received))
  const header = followed(client, FOLLOW_BALANCE)
  await header.next()
  assert.deepEqual([await pongs.next(), await pongs.next()], [true, true])
})

test('at the end of its token it comes back with a fresh one, told nothing twice and missing nothing', async t => {
  const user = someone()
  const lifetimes = [3, 3, 600]
  const closes = new Inbox()
  const absences = [() => grant(user, 5), () => undefined] // what happens while it is away
  const client = resuming(
    connected(t, () => tokenFor(user, lifetimes.shift()), { retryWait: async () => absences.shift()() }),
  )
  client.on('closed', ({ code, reason }) => closes.put({ code, reason }))
  const header = followed(client, FOLLOW_BALANCE)
  assert.deepEqual(await balance(header), { available: 0, version: 0 })

  await grant(user, 70)
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
  const expired = { code: 4403, reason: 'Forbidden: the token has expired' }
  assert.deepEqual(await closes.next(), expired)
  assert.deepEqual(await balance(header), { available: 75, version: 2 }) // what changed meanwhile, at once

  assert.deepEqual(await closes.next(), expired)
  await new Promise(back => client.on('connected', back))
  await header.silent() // nothing changed meanwhile: nothing is told again
  await grant(user, 1)
  assert.deepEqual(await balance(header), { available: 76, version: 3 })
  assert.deepEqual(lifetimes, [])
})

test('a token that is not accepted is retried as well, with the next one', async t => {
  const user = someone()
  const tokens = ['nonsense', await tokenFor(user)]
  const closes = new Inbox()
  const client = connected(t, () => tokens.shift(), { retryWait: async () => undefined })
  client.on('closed', ({ code }) => closes.put(code))
  assert.deepEqual(await balance(followed(client, FOLLOW_BALANCE)), { available: 0, version: 0 })
  assert.equal(await closes.next(), 4403)
})
