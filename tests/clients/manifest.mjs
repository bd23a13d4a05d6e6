// Prints the documents known by hash, as the frontend's build would: each as the clients print it, `__typename` added.
import { createHash } from 'node:crypto'
import { InMemoryCache, gql } from '@apollo/client'
import { print } from '@apollo/client/utilities'
import { BUY, FOLLOW_BALANCE, HEADER } from './operations.mjs'

const cache = new InMemoryCache()
const texts = [HEADER, BUY, FOLLOW_BALANCE].map(text => print(cache.transformDocument(gql(text))))
const hash = text => createHash('sha256').update(text).digest('hex')

console.log(JSON.stringify(Object.fromEntries(texts.map(text => [hash(text), text])), null, 2))
