"""What a job would take and leave, told before it is submitted."""
