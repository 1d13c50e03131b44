"""Repeating a tracked run: restore its configuration, limit what that may build, say what differs."""
