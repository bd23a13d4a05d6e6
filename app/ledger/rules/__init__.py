"""The rules of the ledger. They compute in memory and use neither the database nor the clock.

`account_state` defines the values. `burn_order` selects the grants that pay. `entries` appends signed entries. `debt`,
`balance_changes` and `holds` contain the operations. `due_changes` applies the changes that time causes. An operation
either changes the account completely, or raises and changes nothing.
"""
