// graphql-ws, the client of the graphql-transport-ws protocol.
import assert from 'node:assert/strict'
import test from 'node:test'
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { balance, subscribe, testResponsesAndSubscriptions } from './shared_tests.mjs'
import { ReceivedItems } from './received_items.mjs'
import { BALANCE_SUBSCRIPTION, COST_SUBSCRIPTION } from './operations.mjs'
import { CHARGE, WS, charge, finishTask, grant, newUser, startTask, tokenFor } from './platform.mjs'
import { resuming } from './resuming.mjs'

/** A client as a page creates it. `token` is called for every connection, so that each has a fresh token. */
function createClientFor(t, token, more = {}) {
  const client = createClient({
    url: WS,
    webSocketImpl: WebSocket, // browsers and Node 22 or newer have their own
    connectionParams: async () => ({ authorization: `Bearer ${await token()}` }),
    ...more,
  })
  t.after(() => client.dispose())
  return client
}

testResponsesAndSubscriptions(createClientFor)

test('operations share a connection and end independently', async t => {
  const user = newUser()
  await grant(user, 70)
  const task = await startTask(user)
  const client = createClientFor(t, () => tokenFor(user))
  let connections = 0
  client.on('connected', () => { connections += 1 })
  const header = subscribe(client, BALANCE_SUBSCRIPTION)
  const second = subscribe(client, BALANCE_SUBSCRIPTION)
  const cost = subscribe(client, COST_SUBSCRIPTION, { taskId: task })
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
  assert.deepEqual(await balance(second), { available: 70, version: 1 })
  assert.equal((await cost.next()).data.taskCost.total, 0)

  second.leave()
  assert.equal(await second.next(), 'complete')
  await charge(task)
  assert.deepEqual(await balance(header), { available: 70 - CHARGE, version: 2 })
  assert.equal((await cost.next()).data.taskCost.total, CHARGE)
  await second.expectNothing(50)

  await finishTask(task)
  assert.equal((await cost.next()).data.taskCost.total, CHARGE)
  assert.equal(await cost.next(), 'complete')
  await grant(user, 5)
  assert.deepEqual(await balance(header), { available: 75 - CHARGE, version: 3 })
  assert.equal(connections, 1)
})

test('an error ends only its operation', async t => {
  const user = newUser()
  const client = createClientFor(t, () => tokenFor(user))
  const header = subscribe(client, BALANCE_SUBSCRIPTION)
  await header.next()

  const { error } = await subscribe(client, '{ nothing }').next()
  assert.deepEqual(error.map(one => one.extensions.code), ['GRAPHQL_VALIDATION_FAILED'])
  await grant(user, 70)
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
})

test('a ping is answered', async t => {
  const pongs = new ReceivedItems()
  const client = createClientFor(t, () => tokenFor(newUser()), { keepAlive: 20 })
  client.on('pong', received => pongs.put(received))
  const header = subscribe(client, BALANCE_SUBSCRIPTION)
  await header.next()
  assert.deepEqual([await pongs.next(), await pongs.next()], [true, true])
})

test('when its token expires, it reconnects with a fresh one without repeated or missing items', async t => {
  const user = newUser()
  const lifetimes = [3, 3, 600]
  const closes = new ReceivedItems()
  const absences = [() => grant(user, 5), () => undefined] // what happens while it is disconnected
  const client = resuming(
    createClientFor(t, () => tokenFor(user, lifetimes.shift()), { retryWait: async () => absences.shift()() }),
  )
  client.on('closed', ({ code, reason }) => closes.put({ code, reason }))
  const header = subscribe(client, BALANCE_SUBSCRIPTION)
  assert.deepEqual(await balance(header), { available: 0, version: 0 })

  await grant(user, 70)
  assert.deepEqual(await balance(header), { available: 70, version: 1 })
  const expired = { code: 4403, reason: 'Forbidden: the token has expired' }
  assert.deepEqual(await closes.next(), expired)
  assert.deepEqual(await balance(header), { available: 75, version: 2 }) // the change during the disconnection, at once

  assert.deepEqual(await closes.next(), expired)
  await new Promise(back => client.on('connected', back))
  await header.expectNothing() // nothing has changed: nothing is sent again
  await grant(user, 1)
  assert.deepEqual(await balance(header), { available: 76, version: 3 })
  assert.deepEqual(lifetimes, [])
})

test('an invalid token is retried with the next one', async t => {
  const user = newUser()
  const tokens = ['invalid', await tokenFor(user)]
  const closes = new ReceivedItems()
  const client = createClientFor(t, () => tokens.shift(), { retryWait: async () => undefined })
  client.on('closed', ({ code }) => closes.put(code))
  assert.deepEqual(await balance(subscribe(client, BALANCE_SUBSCRIPTION)), { available: 0, version: 0 })
  assert.equal(await closes.next(), 4403)
})
