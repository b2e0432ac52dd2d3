"""What the modules for engines have in common: plans of reads, their filters, and writes."""
