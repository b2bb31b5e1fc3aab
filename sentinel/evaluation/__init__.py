"""Measure a policy, and say how sure we are: Pass^k, task-clustered intervals, breakdowns, the report page.

    trials.jsonl -> passk (per task) -> intervals (over tasks) -> metrics, breakdown -> collect -> report

A void trial says nothing about the policy: it is counted beside every figure and enters none.
"""
