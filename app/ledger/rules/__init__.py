"""Pure rules of the ledger: values in, values out, no database and no clock.

`account_state` holds the values. `burn_order` selects the grants that pay; `entries` appends a signed entry; `debt`,
`balance_changes` and `holds` are the operations; `due_changes` applies what time alone changes. An operation either
changes the account completely, or raises and changes nothing.
"""
