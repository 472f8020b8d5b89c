from listeners.embedded import free_port

__all__ = ["free_port"]
