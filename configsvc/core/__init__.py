"""Decisions as plain functions over plain data: no IO, no clock, no randomness, no logging in here."""
