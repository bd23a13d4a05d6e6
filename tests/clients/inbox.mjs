// What a subscription has brought: one item after the other, or that nothing comes.
import assert from 'node:assert/strict'

const SECONDS = 8

export class Inbox {
  #items = []
  #waiting = []

  put = item => {
    const taker = this.#waiting.shift()
    if (taker) taker(item)
    else this.#items.push(item)
  }

  /** The next item, in time. */
  async next() {
    if (this.#items.length) return this.#items.shift()
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`nothing came within ${SECONDS} s`)), SECONDS * 1000)
    })
    const item = new Promise(taker => this.#waiting.push(taker))
    return Promise.race([item, late]).finally(() => clearTimeout(timer))
  }

  /** Nothing has come, and for a moment nothing comes. */
  async silent(milliseconds = 200) {
    await new Promise(done => setTimeout(done, milliseconds))
    assert.deepEqual(this.#items, [])
  }

  /** For clients of graphql-ws and graphql-sse. */
  get sink() {
    return {
      next: result => this.put(result),
      error: error => this.put({ error }),
      complete: () => this.put('complete'),
    }
  }
}
