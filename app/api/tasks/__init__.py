"""API of tasks: charging, holds, the lifecycle of tasks, reversals, agents with their costs, and signals for executors.

`types` has the object types that refer to each other: Task, BlockRun, Hold and Entry.
"""
