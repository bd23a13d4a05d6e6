// Tests of graphql-ws and graphql-sse, which have the same interface.
import assert from 'node:assert/strict'
import test from 'node:test'
import { ReceivedItems } from './received_items.mjs'
import { BUY, BALANCE_SUBSCRIPTION, HEADER } from './operations.mjs'
import { CHARGE, charge, grant, newUser, startTask, tokenFor } from './platform.mjs'

export function subscribe(client, query, variables) {
  const items = new ReceivedItems()
  items.leave = client.subscribe({ query, variables }, items.sink)
  return items
}

export async function answer(client, query, variables) {
  const items = subscribe(client, query, variables)
  const result = await items.next()
  assert.equal(await items.next(), 'complete')
  return result
}

export const balance = async items => {
  const { data: { balance: { available, version } } } = await items.next()
  return { available, version }
}

/** `createClientFor(t, token)` creates a client that is disposed of after the test `t`. */
export function testResponsesAndSubscriptions(createClientFor) {
  test('a query, a mutation and its error are answered', async t => {
    const user = newUser()
    await grant(user, 70)
    const client = createClientFor(t, () => tokenFor(user))

    const { data: { account } } = await answer(client, HEADER)
    assert.deepEqual([account.balance.available, account.balance.version], [70, 1])

    const bought = await answer(client, BUY, { input: { credits: 500, idempotencyKey: 'first' } })
    assert.equal(bought.data.beginTopUp.topUp.status, 'PENDING')

    const failed = await answer(client, BUY, { input: { credits: 501, idempotencyKey: 'second' } })
    assert.equal(failed.data.beginTopUp.__typename, 'InvalidInputError')
    assert.deepEqual(failed.data.beginTopUp.problems, [{ path: 'credits' }])
  })

  test('a subscription sends the current state, then every change', async t => {
    const user = newUser()
    const client = createClientFor(t, () => tokenFor(user))
    const header = subscribe(client, BALANCE_SUBSCRIPTION)

    assert.deepEqual(await balance(header), { available: 0, version: 0 })
    await grant(user, 70)
    assert.deepEqual(await balance(header), { available: 70, version: 1 })
    await charge(await startTask(user))
    assert.deepEqual(await balance(header), { available: 70 - CHARGE, version: 2 })
  })
}
