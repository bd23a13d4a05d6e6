// The same client of graphql-ws or graphql-sse; a subscription that comes back by itself asks only for what is newer
// than what it has been told. Its document has to declare $sinceVersion and select `version`.
export function resuming(client) {
  return {
    ...client,
    subscribe(payload, sink) {
      let seen = payload.variables?.sinceVersion ?? null
      const variables = { ...payload.variables, get sinceVersion() { return seen } } // read whenever it is sent
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
