// Prints the persisted documents as a frontend's build does: in the form that the clients send, with `__typename` added.
import { createHash } from 'node:crypto'
import { InMemoryCache, gql } from '@apollo/client'
import { print } from '@apollo/client/utilities'
import { BUY, BALANCE_SUBSCRIPTION, HEADER } from './operations.mjs'

const cache = new InMemoryCache()
const texts = [HEADER, BUY, BALANCE_SUBSCRIPTION].map(text => print(cache.transformDocument(gql(text))))
const hash = text => createHash('sha256').update(text).digest('hex')

console.log(JSON.stringify(Object.fromEntries(texts.map(text => [hash(text), text])), null, 2))
