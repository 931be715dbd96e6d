"""Where things lie on a machine. Compute, daemon and runtimes count on these names."""

from __future__ import annotations

__all__ = [
    "AGENT_HOME",
    "AGENT_TARGET",
    "AGENT_UNIT_PREFIX",
    "BROKER_SOCKET",
    "CADDYFILE",
    "DAEMON_HOST",
    "DAEMON_PORT",
    "ENROLLED_MARK",
    "JOIN_TOKEN",
    "METADATA_ADDRESSES",
    "OWN_PORTS",
    "SCRIPTS",
    "SKILLS",
    "SKILLS_ARCHIVE",
    "UNITS",
    "VMD_SETTINGS",
]

VMD_SETTINGS = "/etc/aura/vmd.json"
JOIN_TOKEN = "/etc/aura/join-token"
CADDYFILE = "/etc/aura/Caddyfile"
SKILLS_ARCHIVE = "/var/lib/aura/skills.tar.xz"
AGENT_HOME = "/var/lib/agent"
SKILLS = "/var/lib/agent/skills"
BROKER_SOCKET = "/run/aura/broker.sock"
ENROLLED_MARK = "/run/aura/enrolled"
"""The daemon writes it once its keys are known to the control plane; the agent waits for it."""

SCRIPTS = "/usr/local/lib/aura"
UNITS = "/etc/systemd/system"
AGENT_TARGET = "aura-agent.target"
AGENT_UNIT_PREFIX = "aura-agent-"
"""No unit that a skill or runtime brings can replace one of the system's: all get this prefix."""

DAEMON_HOST = "127.0.0.1"
DAEMON_PORT = 18790
OWN_PORTS = (80, 443, 2019, DAEMON_PORT)
"""The web server's, its administration's and the daemon's."""

METADATA_ADDRESSES = ("169.254.169.254", "fe80::a9fe:a9fe")
"""Where clouds serve user-data, and with it the join token, to whoever asks on the machine."""
