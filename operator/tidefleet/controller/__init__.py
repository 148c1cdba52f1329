"""The operator process: watches custom resources, observes the fleet, decides, acts, and says why.

The only package that imports kopf. One level-triggered fleet loop takes every decision; handlers only hand it objects.
"""
