"""Durable work: what must finish although a process dies half-way."""
