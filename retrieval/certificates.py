"""Certificates of private training: what an auditor can check without trusting the appliance."""
