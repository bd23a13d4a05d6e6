// What holds of graphql-ws and of graphql-sse alike: one interface, two transports.
import assert from 'node:assert/strict'
import test from 'node:test'
import { Inbox } from './inbox.mjs'
import { BUY, FOLLOW_BALANCE, HEADER } from './operations.mjs'
import { CHARGE, charge, grant, someone, startTask, tokenFor } from './platform.mjs'

export function followed(client, query, variables) {
  const inbox = new Inbox()
  inbox.leave = client.subscribe({ query, variables }, inbox.sink)
  return inbox
}

export async function answer(client, query, variables) {
  const inbox = followed(client, query, variables)
  const result = await inbox.next()
  assert.equal(await inbox.next(), 'complete')
  return result
}

export const balance = async inbox => {
  const { data: { balance: { available, version } } } = await inbox.next()
  return { available, version }
}

/** `connected(t, token)` makes a client that is disposed of after the test `t`. */
export function testAnswersAndChanges(connected) {
  test('a query, a mutation and its refusal are answered', async t => {
    const user = someone()
    await grant(user, 70)
    const client = connected(t, () => tokenFor(user))

    const { data: { account } } = await answer(client, HEADER)
    assert.deepEqual([account.balance.available, account.balance.version], [70, 1])

    const bought = await answer(client, BUY, { input: { credits: 500, idempotencyKey: 'first' } })
    assert.equal(bought.data.beginTopUp.topUp.status, 'PENDING')

    const refused = await answer(client, BUY, { input: { credits: 501, idempotencyKey: 'second' } })
    assert.equal(refused.data.beginTopUp.__typename, 'InvalidInputError')
    assert.deepEqual(refused.data.beginTopUp.problems, [{ path: 'credits' }])
  })

  test('a subscription tells a snapshot, then every change', async t => {
    const user = someone()
    const client = connected(t, () => tokenFor(user))
    const header = followed(client, FOLLOW_BALANCE)

    assert.deepEqual(await balance(header), { available: 0, version: 0 })
    await grant(user, 70)
    assert.deepEqual(await balance(header), { available: 70, version: 1 })
    await charge(await startTask(user))
    assert.deepEqual(await balance(header), { available: 70 - CHARGE, version: 2 })
  })
}
