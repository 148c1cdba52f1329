"""The endpoint picker: one process that tells any Envoy where each request goes. The only package that imports zmq.

It reads Pods, pools and classes from the API server, follows the KV events of the engines, and answers Envoy's external
processing streams. It decides nothing by itself: `tidefleet.routing` does.
"""
