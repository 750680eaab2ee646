"""The observability stack: Grafana dashboards and what they are generated from, rules, and configuration."""
