"""The least that the gateway's user of Redis has to be allowed."""

from typing import Final

__all__ = ["COMMANDS", "acl_line"]

# The scripts run with the rights of whoever calls them, so what they do is here as well.
COMMANDS: Final = (
    *("auth", "hello", "client|setname", "client|setinfo", "ping", "select", "info"),
    *("eval", "evalsha"),
    *("publish", "subscribe", "unsubscribe", "spublish", "ssubscribe", "sunsubscribe"),
    *("exists", "expire", "get", "getdel", "set", "time", "unlink"),
    *("hget", "hgetall", "hlen", "hmget", "hscan", "hset"),
    *("llen", "lpop", "lrange", "rpush"),
    *("zadd", "zcard", "zmscore", "zrange", "zrem", "zremrangebyscore", "zscan", "zscore"),
    *("xadd", "xrange", "xrevrange"),
)
# Of a cluster's nodes.
CLUSTER_COMMANDS: Final = ("asking", "cluster|info", "cluster|slots")


def acl_line(user: str, password: str, *, prefix: str = "gw", cluster: bool = False) -> str:
    """What follows `ACL SETUSER`, or `user` in a file of users: these commands, on our names alone."""
    commands = " ".join(f"+{name}" for name in (*COMMANDS, *(CLUSTER_COMMANDS if cluster else ())))
    return f"{user} reset on >{password} ~{prefix}:* &{prefix}:* -@all {commands}"
