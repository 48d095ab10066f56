"""The contracts: what plugins, repositories, storages and this package promise each other. No doing."""
