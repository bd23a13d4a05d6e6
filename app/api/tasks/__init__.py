"""API of tasks: charging, holds, the lifecycle of tasks, reversals, agents and their costs, signals for executors.

`types` has the object types that refer to each other: Task, BlockRun, Hold and Entry.
"""
