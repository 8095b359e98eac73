"""Runs that are sent to a cluster from outside, by Ray's Jobs API."""
