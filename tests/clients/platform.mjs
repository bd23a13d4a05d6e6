// The platform around the clients: signs tokens, grants credits and charges. It uses bare fetch, so that no client tests
// itself.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { buildSchema } from 'graphql'

export const HTTP = `${process.env.SERVER_URL}/graphql`
export const WS = HTTP.replace(/^http/, 'ws')
export const schema = buildSchema(readFileSync(new URL('../../schema.graphql', import.meta.url), 'utf8'))

const ERROR_MESSAGE = '... on UserError { message }'

/** A user name that no other test uses. */
export const newUser = () => `newUser-${randomUUID()}`

/** A token for this user, as the frontend gets one from its identity provider. */
export async function tokenFor(user, seconds = 600) {
  const reply = await fetch(`${process.env.TOKENS_URL}/${user}/${seconds}`)
  assert.equal(reply.status, 200)
  return reply.text()
}

export async function post(bearer, query, variables) {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${bearer}` }
  const reply = await fetch(HTTP, { method: 'POST', headers, body: JSON.stringify({ query, variables }) })
  return reply.json()
}

async function done(bearer, name, input) {
  const type = name[0].toUpperCase() + name.slice(1)
  const { data, errors } = await post(
    bearer,
    `mutation ($input: ${type}Input!) { ${name}(input: $input) { __typename ${ERROR_MESSAGE} } }`,
    { input },
  )
  assert.deepEqual([errors, data?.[name]], [undefined, { __typename: `${type}Success` }])
}

/** Each of these increases the version of the user's balance by one. */
export const grant = (user, credits) =>
  done(process.env.OPERATOR_TOKEN, 'grantCredits', {
    ownerId: user, credits, reason: 'stock clients', idempotencyKey: randomUUID(),
  })

export const charge = taskId =>
  done(process.env.SERVICE_KEY, 'charge', { taskId, blockRunId: randomUUID(), block: 'ReplicateModelBlock' })

export const CHARGE = 10

/** A running task of the user. */
export async function startTask(user) {
  const taskId = randomUUID()
  await done(process.env.SERVICE_KEY, 'startTask', { taskId, ownerId: user, agentId: 'writer' })
  return taskId
}

export const finishTask = taskId => done(process.env.SERVICE_KEY, 'finishTask', { taskId, status: 'COMPLETED' })
