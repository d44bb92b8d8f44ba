"""What may run and be called here beyond what claims grant: a policy service, revocations, and the end of claims."""
