"""An append-only event log: streams, versions, positions, leases, subscriptions."""
