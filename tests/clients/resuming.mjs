// Wraps a client of graphql-ws or graphql-sse: when it reconnects, a subscription requests only items that are newer than
// the last one received. Its document must declare $sinceVersion and select `version`.
export function resuming(client) {
  return {
    ...client,
    subscribe(payload, sink) {
      let seen = payload.variables?.sinceVersion ?? null
      const variables = { ...payload.variables, get sinceVersion() { return seen } } // read each time the request is sent
      return client.subscribe({ ...payload, variables }, {
        ...sink,
        next(result) {
          seen = result.data?.balance?.version ?? seen
          sink.next(result)
        },
      })
    },
  }
}
