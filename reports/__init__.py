"""Leaderboards from what the ledgers hold."""
