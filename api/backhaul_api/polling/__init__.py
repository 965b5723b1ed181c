"""The agents' side: enrolment, the held poll, and what agents report."""
