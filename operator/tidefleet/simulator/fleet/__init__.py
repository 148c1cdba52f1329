"""The slots of a fleet without single requests: demand as a fluid, and every plan and every flip exactly.

Forecast, loan schedule, the choice of nodes and the steps of each flip are the operator's own functions, called in the
same order; only what they observe is simulated. Imports ``flipping``, ``planning``, ``economics`` and the scenario.
"""
