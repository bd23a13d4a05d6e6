// GraphQL over HTTP: each audit of the specification's own suite, including what it only allows (MAY).
import assert from 'node:assert/strict'
import test from 'node:test'
import { serverAudits } from 'graphql-http'
import { HTTP } from './platform.mjs'

const passed = { MUST: 0, SHOULD: 0, MAY: 0 }

for (const { id, name, fn } of serverAudits({ url: HTTP })) {
  test(`${id}: ${name}`, async () => {
    const { status, reason } = await fn()
    assert.deepEqual({ status, reason }, { status: 'ok', reason: undefined })
    passed[name.split(' ')[0]] += 1
  })
}

test('every audit has passed', t => {
  t.diagnostic(`passed: ${Object.entries(passed).map(([level, count]) => `${count} ${level}`).join(', ')}`)
  assert.deepEqual(passed, { MUST: 13, SHOULD: 23, MAY: 25 })
})
