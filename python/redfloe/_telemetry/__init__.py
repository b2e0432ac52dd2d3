"""OpenTelemetry: imported by `redfloe.telemetry` alone, which needs opentelemetry-api."""
