"""What the tests need around the package: servers, faults, certificates."""
