"""Auto top-up: an account buys credits with its saved card when few are left, within caps that its owner sets.

- `rules`: when to buy, how much, the wait after declines, the caps, and the reason when nothing is bought.
- `configuration`: enabling and disabling it, and the view that is shown to users.
- `purchasing`: one purchase at a time, and the reconciliation of purchases whose outcome is unknown.
- `worker`: the background loops that decide which accounts to check.
"""
