"""How a process of this project behaves: its streams, its imports, its garbage collector."""
