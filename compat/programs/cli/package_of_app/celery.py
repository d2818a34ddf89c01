from app_lookup import app
