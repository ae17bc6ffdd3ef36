"""Stored runs as one HTML page, and its charts as pictures."""
