def decode_options(
    schema: object | None,
    *,
    payload_format: str,
    payload_schema: str | None,
    compression: str | None,
    max_bytes: int | None,
    path: str | None,
    positions: list[str],
    null_values: list[str],
    null_values_by_field: dict[str, list[str]],
    on_error: str,
    rescue_column: str | None,
) -> str: ...
def encode_options(
    *, payload_format: str, payload_schema: str | None, compression: str | None
) -> str: ...
def entry_id_options(*, on_error: str) -> str: ...
