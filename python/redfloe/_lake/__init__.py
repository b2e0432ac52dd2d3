"""Archives: streams as files and tables that go on where they ended, each entry once."""
