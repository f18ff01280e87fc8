"""Budgets kept: load, machines real and simulated, baselines and scores of the step-adaptive executor."""
