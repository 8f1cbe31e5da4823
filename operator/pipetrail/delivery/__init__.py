"""Delivery: who gets what (dispatch), how far it is (ledger), what is still to send (plan), and sending it (lane)."""
