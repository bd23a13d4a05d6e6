// The items that a subscription has received.
import assert from 'node:assert/strict'

const SECONDS = 8

export class ReceivedItems {
  #items = []
  #waiting = []

  put = item => {
    const taker = this.#waiting.shift()
    if (taker) taker(item)
    else this.#items.push(item)
  }

  /** The next item, within the time limit. */
  async next() {
    if (this.#items.length) return this.#items.shift()
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no item within ${SECONDS} s`)), SECONDS * 1000)
    })
    const item = new Promise(taker => this.#waiting.push(taker))
    return Promise.race([item, late]).finally(() => clearTimeout(timer))
  }

  /** No item has been received, and none is for a moment. */
  async expectNothing(milliseconds = 200) {
    await new Promise(done => setTimeout(done, milliseconds))
    assert.deepEqual(this.#items, [])
  }

  /** The sink for clients of graphql-ws and graphql-sse. */
  get sink() {
    return {
      next: result => this.put(result),
      error: error => this.put({ error }),
      complete: () => this.put('complete'),
    }
  }
}
