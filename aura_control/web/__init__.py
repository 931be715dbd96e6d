"""The pages a person sees: parse, call a service, answer HTML."""
