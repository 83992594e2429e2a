"""The live tick stream: a state machine without I/O (sequence.py), a buffer (buffer.py), and the client (client.py)."""
